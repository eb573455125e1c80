# The server: takes shards in, trains, answers new cases. Build in the project's folder:
#     docker build --file docker/server.Dockerfile --tag sltool-server .
# BASE may be fixed to the bytes of one image: --build-arg BASE=python:3.12-slim@sha256:...
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
# More extras: --build-arg EXTRAS=server,age,onnx
ARG EXTRAS=server
# Where pip finds the build of torch that fits the machine; empty: where it looks by default.
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY sltool sltool
RUN python -m venv /venv \
    && PIP_CONSTRAINT=constraints.txt /venv/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM ${BASE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
# The account that owns server/inbox: those who ship by scp or sftp log in as the same number.
RUN useradd --uid 10001 --home-dir /study --no-create-home --shell /usr/sbin/nologin sltool \
    && install --directory --mode 0700 --owner sltool --group sltool /study
USER 10001
WORKDIR /study
VOLUME /study
# Ends after the step under way, with a checkpoint.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sh", "-c", "umask 077 && exec sltool \"$@\"", "sltool"]
CMD ["server-train", "--watch"]
