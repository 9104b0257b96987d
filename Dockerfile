# One image for head, workers, submitter and MLflow's server: Python and Ray must be the same everywhere.
#   docker build .               with PyTorch's CUDA libraries: GPUs where there are some, else CPUs
#   docker build --target cpu .  a third of the size, no GPUs; needs cluster/image/torch-cpu.lock (cluster/image/README.md)
# `make image` builds it also with podman or buildah, and where no registry can be reached.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Nothing: the folder of wheels that `--build-context cpu-wheels=FOLDER` may put in its place.
FROM scratch AS cpu-wheels

# What both kinds are but for Python's packages.
FROM ${BASE_IMAGE} AS runtime
RUN if ! command -v tini; then apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*; fi \
    && useradd --create-home --uid 1000 crowddist
# One thread per process: Ray's workers share the cores. HOME and the working folder need not be writable if /tmp is.
ENV PATH=/opt/crowddist/bin:$PATH LANG=C.UTF-8 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/crowddist
STOPSIGNAL SIGTERM
# Ray leaves children behind: process 1 must reap them.
ENTRYPOINT ["tini", "--"]
CMD ["python", "jobs/adapt.py", "--help"]

# uv, of the version and hash that the lock has. None of this stage is in the images.
FROM ${BASE_IMAGE} AS tools
# Other places of packages and of certificates, for the build alone: --build-arg. Not every builder hands them on to the stages below.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
ENV UV_LINK_MODE=copy UV_PYTHON=/opt/crowddist/bin/python UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY requirements.lock ./
RUN python3 -m venv --without-pip /opt/crowddist && python3 -m venv /opt/uv && sed -n '/^uv==/,/# via/p' requirements.lock > uv.lock \
    && /opt/uv/bin/pip install --no-cache-dir --no-deps --require-hashes -r uv.lock
# PyTorch compiles with Triton, Triton with a C compiler, and there is none: 0.9 GB less. What only linkers read (*.a): 0.2 GB less.
# Ray Serve starts its own proxy; the HAProxy that its extra brings (GPL) would never run.
RUN printf 'triton\nray-haproxy\n' > excludes.txt
COPY pyproject.toml ./

# What pyproject.toml asks for, extras included, groups (tests) not. Versions and hashes are the lock's; what the lock lacks is refused.
FROM tools AS packages-cuda
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --compile-bytecode --require-hashes --excludes excludes.txt -r pyproject.toml --all-extras -c requirements.lock \
    && find /opt/crowddist \( -name '*.a' -o -name .lock \) -delete

FROM tools AS packages-cpu
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
# An address of PyTorch's CPU builds, in place of a folder.
ARG CPU_INDEX
COPY cluster/image/torch-cpu.lock ./
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=bind,from=cpu-wheels,target=/cpu-wheels \
    /opt/uv/bin/uv pip install --compile-bytecode --require-hashes --no-deps --find-links /cpu-wheels ${CPU_INDEX:+--index "$CPU_INDEX"} -r torch-cpu.lock \
    && /opt/uv/bin/uv pip install --compile-bytecode --require-hashes --excludes excludes.txt -r pyproject.toml --all-extras \
        -c requirements.lock -c torch-cpu.lock \
    && find /opt/crowddist \( -name '*.a' -o -name .lock \) -delete

# crowddist itself, in a layer of its own: it changes more often than what it needs.
FROM tools AS project
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
COPY README.md LICENSE ./
COPY crowddist ./crowddist
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --no-deps --prefix /project/opt/crowddist --require-build-hashes --build-constraints requirements.lock /src \
    && /opt/crowddist/bin/python -m compileall -q -s /project /project

# The same for both but for the packages. Labels come last, in each: they change with every commit, and all that follows them would be built again.
FROM runtime AS cpu
COPY --from=packages-cpu /opt/crowddist /opt/crowddist
COPY --from=project /project /
COPY jobs /home/crowddist/jobs
ARG VERSION=0.2.0
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="crowddist" \
      org.opencontainers.image.description="Adapts a crowd counter to cameras nobody has labelled; CPUs alone" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

FROM runtime AS cuda
COPY --from=packages-cuda /opt/crowddist /opt/crowddist
COPY --from=project /project /
COPY jobs /home/crowddist/jobs
ARG VERSION=0.2.0
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="crowddist" \
      org.opencontainers.image.description="Adapts a crowd counter to cameras nobody has labelled" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
