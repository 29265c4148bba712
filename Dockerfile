# The one image of EFC: node plugin, keeper, daemons and controller; what runs is said by the arguments (`csi node ...`).
# Both bases can be replaced, for example by ones of your own registry: --build-arg BUILDER=... --build-arg BASE=...
ARG BUILDER=rust:1-slim-bookworm
ARG BASE=python:3.11-slim-bookworm

FROM ${BUILDER} AS builder
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python3 -m pip wheel --no-deps --wheel-dir /wheels .

FROM ${BASE}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="EFC-CSI" \
      org.opencontainers.image.description="A NAS directory as a POSIX volume, through one FUSE daemon per node" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# A virtual environment, so that the base's own packages, of Debian's Python for example, stay as they are.
COPY --from=builder /wheels /wheels
RUN python3 -m venv /opt/efc \
 && /opt/efc/bin/pip install --no-cache-dir /wheels/*.whl \
 && rm -rf /wheels
ENV PATH=/opt/efc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
# Root: it mounts file systems. Each process drops what it does not need.
ENTRYPOINT ["efc"]
CMD ["--help"]
