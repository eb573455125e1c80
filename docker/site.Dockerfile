# A hospital: prepares, encodes, inspects and ships, without torch. Build in the project's folder:
#     docker build --file docker/site.Dockerfile --tag sltool-site .
# BASE may be fixed to the bytes of one image: --build-arg BASE=python:3.12-slim@sha256:...
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
# More extras, for what the hospital's source is: --build-arg EXTRAS=site,dicom,nifti,excel
ARG EXTRAS=site
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY sltool sltool
RUN python -m venv /venv \
    && PIP_CONSTRAINT=constraints.txt /venv/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM ${BASE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
# /study is private; /source is the hospital's data, to mount read-only; shards leave by /outgoing.
# Where those folders belong to another account, run with `--user`.
RUN useradd --uid 10002 --home-dir /study --no-create-home --shell /usr/sbin/nologin sltool \
    && install --directory --mode 0700 --owner sltool --group sltool /study /source /outgoing
USER 10002
WORKDIR /study
VOLUME ["/study", "/source", "/outgoing"]
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "-c", "umask 077 && exec sltool \"$@\"", "sltool"]
CMD ["status"]
