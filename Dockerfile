# The one image of EFC: node plugin, keeper, daemons and controller; what runs is said by the arguments (`csi node ...`).
# Both bases can be replaced, for example by ones of your own registry: --build-arg BUILDER=... --build-arg BASE=...
# deploy/image builds it without a container daemon, and needs no registry.
ARG BUILDER=rust:1.95.0-slim-bookworm
ARG BASE=python:3.11-slim-bookworm

# Wheels of EFC, of what it needs, and of the pip that installs them: those in wheels/ of the build context if there are
# any, else they are made here, by the Python release that BASE has. requirements/ says which releases, with their hashes.
FROM ${BUILDER} AS builder
WORKDIR /source
COPY . .
RUN if ! ls wheels/*.whl >/dev/null 2>&1; then \
        apt-get update \
     && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-pip python3-venv \
     && python3 -m venv /opt/build \
     && /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
     && /opt/build/bin/pip wheel --wheel-dir wheels --require-hashes -r requirements/run.txt -r requirements/build.txt \
     && /opt/build/bin/pip wheel --wheel-dir wheels --no-deps --no-build-isolation .; \
    fi

# A virtual environment, so that the base's own packages, of Debian's Python for example, stay as they are. pip runs out of
# its wheel, and is not installed.
FROM ${BASE} AS installed
COPY --from=builder /source/wheels /wheels
RUN python3 -m venv --without-pip /opt/efc \
 && /opt/efc/bin/python "$(echo /wheels/pip-*.whl)/pip" install --no-cache-dir --no-index --find-links /wheels efc-csi

FROM ${BASE}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="EFC-CSI" \
      org.opencontainers.image.description="A NAS directory as a POSIX volume, through one FUSE daemon per data set on each node" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# For `efc worker`, if the base has not got it.
RUN command -v memcached >/dev/null \
 || { apt-get update && apt-get install -y --no-install-recommends memcached && rm -rf /var/lib/apt/lists/*; }
COPY --from=installed /opt/efc /opt/efc
# Byte code was compiled when it was installed; containers have no place to write it.
ENV PATH=/opt/efc/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1
# Root: it mounts file systems. Each process drops what it does not need.
ENTRYPOINT ["efc"]
CMD ["--help"]
