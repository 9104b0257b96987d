# syntax=docker/dockerfile:1
# One image for head, workers and submitter: Python and Ray must be the same everywhere.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python3 -m venv /opt/crowddist && /opt/crowddist/bin/pip install --no-cache-dir uv
COPY requirements.lock /tmp/requirements.lock
RUN /opt/crowddist/bin/uv pip install --no-cache --python /opt/crowddist/bin/python --require-hashes -r /tmp/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY crowddist /src/crowddist
RUN /opt/crowddist/bin/uv pip install --no-cache --python /opt/crowddist/bin/python --no-deps --no-build-isolation /src

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="crowddist" \
      org.opencontainers.image.description="Adapts a crowd counter to cameras nobody has labelled" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 crowddist
COPY --from=build /opt/crowddist /opt/crowddist
COPY --chown=crowddist jobs /home/crowddist/jobs
ENV PATH=/opt/crowddist/bin:$PATH OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0
USER crowddist
WORKDIR /home/crowddist
# Ray leaves children behind: process 1 must reap them.
ENTRYPOINT ["tini", "--"]
CMD ["python", "jobs/adapt.py", "--help"]
