# %% [markdown]
# # A study in a notebook
# One folder plays three hospitals and the server. Open this file in Jupyter (with Jupytext), in
# VS Code or in Spyder, whose cells begin with `# %%`, or run it with Python.

# %%
import tempfile

import sltool

study = sltool.Study.create(
    tempfile.mkdtemp(), "cholesterol", settings={"training.epochs": 20}, seed=0
)
print(study)

# %% [markdown]
# ## At the hospitals
# Read the data, split it over three sites, run the privacy layer once, and ship the shards.

# %%
prepared = study.prepare()
print(prepared.samples, "samples")
partition = study.partition((7, 2, 1))
print(partition.counts)

# %%
for encoded in study.encode():
    print(encoded.site, encoded.samples, "samples in", encoded.shards, "shards")
study.ship()

# %% [markdown]
# ## What travels
# Each row is a feature map; nobody needs the table of the hospital for this.

# %%
run = study.train("multi")
maps = study.feature_maps("test", site="B")
print(maps)

# %% [markdown]
# ## Training and its figures

# %%
print(run.history.tail())
print(run.evaluate(["smape", "mae"], by="site"))

# %%
alone = study.train("alone", sites=["C"])
alone.evaluate()
print(study.compare("multi", "alone")[["sites", "smape"]])

# %%
predictions = run.predictions
print(predictions[["site", "y_true", "y_pred"]].head())
