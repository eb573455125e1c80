"""Any network of timm (Wightman, "PyTorch Image Models", 2019), which the extra `timm` installs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from sltool.errors import StudyFileError, UnknownNameError, UsageError
from sltool.models import base
from sltool.models.weights import State, read_state
from sltool.registry import models
from sltool.study.schema import Fraction, Section


@models.register("timm")
class Timm(base.Model):
    """Any of timm's networks, after an added convolution or cut at its own stem and stages."""

    class Settings(Section):
        class Server(base.ServerSettings):
            dropout: Fraction = Field(default=0.0, description="Dropout before the dense layer.")
            weights: str | None = Field(
                default=None,
                description="A file with the network's initial weights in timm's layout "
                "(.safetensors, or .pth with tensors alone). Nothing is ever downloaded.",
            )

        network: str = Field(default="resnet18", description="As in timm.list_models().")
        stem: Literal["convolution", "network"] = Field(
            default="convolution",
            description="The first hidden layer. convolution: an added one with 2x2 pooling, "
            "followed by the network; network: the network's own stem.",
        )
        pretrained_stem: bool = Field(
            default=False,
            description="With stem: network. The privacy layer is not drawn but copied from "
            "server.weights; the server starts from the rest.",
        )
        channels: base.Count = Field(
            default=16, description="Channels of the convolution: of the feature maps at cut 1."
        )
        activation: base.Activation = Field(
            default="relu",
            description="Activation of the convolution: relu, leaky-relu, sigmoid or tanh.",
        )
        pool: base.Pool = Field(
            default="max", description="Pooling of the convolution: max or average."
        )
        arguments: dict[str, bool | int | float | str] = Field(
            default={},
            description="Further arguments of timm.create_model: img_size of a transformer.",
        )
        server: Server = Field(
            default=Server(),
            description="Settings of the server network alone; may change at any time.",
        )

    settings: Settings

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> base.Layers:
        base.check_image("timm", shape, 1)
        options = self.settings
        if options.stem == "network":
            network = self._network(shape[0], outputs)
            layers = self._frozen_layers(network, cut)
            self._check_shape(network, shape)
            return layers
        activation = base.activation_at(0, cut, options.activation, options.server)
        first = base.convolution(shape[0], options.channels, activation, options.pool, norm=False)
        network = self._network(options.channels, outputs)
        self._check_shape(network, (options.channels, shape[1] // 2, shape[2] // 2))
        rest = self._frozen_layers(network, cut - 1)
        return base.Layers([first, *rest.hidden], rest.head)

    def load_pretrained(self, layers: base.Layers, cut: int, folder: Path) -> None:
        """As `Model.load_pretrained`, except for the classifier, whose classes are the study's.

        Raises:
            StorageError: the file cannot be read.
            BadDataError: it is not a file of tensors.
            StudyFileError: its tensors are not those of this network.
        """
        if self.settings.server.weights is not None:
            pretrained = self._from_disk(layers, cut, folder)
            _copy_tensors(pretrained.hidden[cut:], layers.hidden[cut:])
            _copy_tensors([pretrained.head], [layers.head])

    def load_privacy_layer(self, layers: base.Layers, cut: int, folder: Path) -> bool:
        """As `Model.load_privacy_layer`, with `pretrained_stem`; raises as `load_pretrained`."""
        options = self.settings
        if not options.pretrained_stem:
            return False
        if options.stem != "network" or options.server.weights is None:
            raise StudyFileError(
                "model.pretrained_stem has no stem to take",
                expected="model.stem: network, and a file under model.server.weights",
            )
        _copy_tensors(self._from_disk(layers, cut, folder).hidden[:cut], layers.hidden[:cut])
        return True

    def _network(self, channels: int, outputs: int) -> Any:
        timm = _timm()
        options = self.settings
        if not timm.is_model(options.network):
            raise UnknownNameError.of("timm network", options.network, timm.list_models())
        try:
            return timm.create_model(
                options.network,
                pretrained=False,
                num_classes=outputs,
                in_chans=channels,
                drop_rate=options.server.dropout,
                **options.arguments,
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise StudyFileError(
                f"timm cannot make '{options.network}': {error}",
                hint="see model.arguments in study.yaml",
            ) from error

    def _check_shape(self, network: Any, shape: tuple[int, ...]) -> None:
        """Raise `StudyFileError` if a network on the meta device does not take this shape.

        Networks on other devices are not checked, because that costs a forward pass.
        """
        if not next(network.parameters()).is_meta:
            return
        try:
            network.eval()(torch.zeros(1, *shape))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise StudyFileError(
                f"'{self.settings.network}' does not take {shape}: {str(error).splitlines()[0]}",
                hint="larger images, or model.arguments: {img_size: ...} for a transformer",
            ) from error
        network.train()

    def _frozen_layers(self, network: Any, cut: int) -> base.Layers:
        """The network's stem, stages and head, with frozen batch norm in the first `cut`."""
        freeze = _timm().layers.freeze_batch_norm_2d
        *stages, head = (nn.Sequential(*parts) for parts in _stages(network))
        if not stages and self.settings.stem == "network":
            raise StudyFileError(
                f"the stem and stages of '{self.settings.network}' are not known",
                expected=f"a network of the families {', '.join(FAMILIES)}, "
                "or model.stem: convolution",
            )
        hidden = [freeze(stage) if index < cut else stage for index, stage in enumerate(stages)]
        return base.Layers(hidden, head)

    def _from_disk(self, layers: base.Layers, cut: int, folder: Path) -> base.Layers:
        """Layers of the same network with the tensors of `server.weights` but no classifier."""
        assert self.settings.server.weights is not None
        path = folder / Path(self.settings.server.weights).expanduser()
        added = self.settings.stem == "convolution"
        with torch.device("meta"):
            network = self._network(_input_channels(layers, added), outputs=1)
        fitted = _fitted(read_state(path), network, path)
        network.load_state_dict(fitted, strict=False, assign=True)
        pretrained = self._frozen_layers(network, cut - added)
        return base.Layers([*layers.hidden[:added], *pretrained.hidden], pretrained.head)


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(
            f"the model 'timm' needs the package timm: {error}",
            hint="pip install 'sltool[timm]'",
        ) from error
    except RuntimeError as error:
        raise UsageError(
            f"timm cannot be imported: {error}",
            hint="torchvision, which timm needs, is built for another torch: install both from "
            "the same source, in versions that fit each other",
        ) from error


# Names of the network's class or of its base classes.
FAMILIES = ("ResNet", "DenseNet", "EfficientNet", "ConvNeXt")


def _stages(network: Any) -> Iterator[list[nn.Module]]:
    """The stem, the stages and the head, each as the sequence of its parts.

    A network of an unknown family is returned as a head alone.
    """
    match next((base.__name__ for base in type(network).__mro__ if base.__name__ in FAMILIES), ""):
        case "ResNet":
            yield [network.conv1, network.bn1, network.act1, network.maxpool]
            yield from ([getattr(network, f"layer{index}")] for index in (1, 2, 3, 4))
            yield [network.global_pool, nn.Dropout(network.drop_rate), network.fc]
        case "DenseNet":
            stage: list[nn.Module] = []
            for name, part in network.features.named_children():
                if name.startswith("denseblock"):
                    yield stage
                    stage = []
                stage.append(part)
            yield stage
            yield [network.global_pool, network.head_drop, network.classifier]
        case "EfficientNet":
            yield [network.conv_stem, network.bn1]
            yield from ([block] for block in network.blocks)
            pooled = [network.conv_head, network.bn2, network.global_pool]
            yield [*pooled, nn.Dropout(network.drop_rate), network.classifier]
        case "ConvNeXt":
            yield [network.stem]
            yield from ([stage] for stage in network.stages)
            yield [network.norm_pre, network.head]
        case _:
            yield [network]


def _input_channels(layers: base.Layers, added: bool) -> int:
    """The input channels of timm's network, with or without an added convolution before it."""
    convolutions = [part for part in layers.hidden[0].modules() if isinstance(part, nn.Conv2d)]
    return convolutions[0].out_channels if added else convolutions[0].in_channels


def _copy_tensors(sources: Iterable[nn.Module], targets: Iterable[nn.Module]) -> None:
    """Copy every tensor of each source that is not on the meta device into its target."""
    for source, target in zip(sources, targets, strict=True):
        tensors = {name: value for name, value in source.state_dict().items() if not value.is_meta}
        target.load_state_dict(tensors, strict=False)


def _fitted(state: State, network: Any, path: Path) -> State:
    """The network's tensors from the file, except the classifier's."""
    config = network.default_cfg
    firsts, classifiers = (
        [names] if isinstance(names, str) else [*names]
        for names in (config["first_conv"], config["classifier"])
    )
    adapt_input_conv = importlib.import_module("timm.models").adapt_input_conv
    fitted = {}
    for name, target in network.state_dict().items():
        if name.rpartition(".")[0] in classifiers:
            continue
        found = state.get(name)
        if found is None and name.endswith("num_batches_tracked"):
            found = torch.zeros((), dtype=torch.int64)
        if found is None:
            raise _wrong_weights(f"the weights have no '{name}'", path, state)
        if name.rpartition(".")[0] in firsts and name.endswith(".weight") and found.dim() == 4:
            found = adapt_input_conv(target.shape[1], found) if found.shape[1] == 3 else found
        if found.shape != target.shape:
            shapes = f"{tuple(found.shape)}, not {tuple(target.shape)}"
            raise _wrong_weights(f"'{name}' has the shape {shapes}", path, state)
        fitted[name] = found.to(target.dtype)
    return fitted


def _wrong_weights(what: str, path: Path, state: State) -> StudyFileError:
    return StudyFileError(
        what,
        where=path,
        expected="the tensors of model.network, as timm names them",
        hint=f"the file's first names are {', '.join(list(state)[:3]) or 'none'}",
    )
