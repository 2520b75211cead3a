# Runs exported models on x86: the runtime alone, without torch. From the root of a checkout:
#
#   docker build -f containers/x86.Dockerfile -t cpsl-run .                       on the CPU
#   docker build -f containers/x86.Dockerfile --target gpu -t cpsl-run:gpu .      on an NVIDIA GPU
#
# EXTRAS: those of pyproject.toml, for example --build-arg EXTRAS=openvino,preview. How to run it: docs/edge.md.

FROM python:3.12-slim-bookworm AS install
ARG EXTRAS=cpu,preview
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY cpsl_deploy cpsl_deploy
COPY train train
COPY export export
RUN python3 -m venv /opt/cpsl \
    && /opt/cpsl/bin/pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]" \
    && rm -r /opt/cpsl/lib/python3*/site-packages/pip*

FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS install-gpu
ARG EXTRAS=gpu,preview
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt containers/gpu-constraints.txt ./
COPY cpsl_deploy cpsl_deploy
COPY train train
COPY export export
RUN python3 -m venv /opt/cpsl \
    && /opt/cpsl/bin/pip install --no-cache-dir -c constraints.txt -c gpu-constraints.txt ".[$EXTRAS]" \
    && rm -r /opt/cpsl/lib/python3*/site-packages/pip*

FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS gpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=install-gpu /opt/cpsl /opt/cpsl
# What is kept between runs belongs into volumes; the rest of the container can be read-only.
ENV PATH=/opt/cpsl/bin:$PATH HOME=/tmp CPSL_CACHE=/tmp/cpsl PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /out
USER 1000:1000
ENTRYPOINT ["cpsl-run"]
CMD ["--help"]

# The last stage is what is built without --target.
FROM python:3.12-slim-bookworm AS cpu
COPY --from=install /opt/cpsl /opt/cpsl
ENV PATH=/opt/cpsl/bin:$PATH HOME=/tmp CPSL_CACHE=/tmp/cpsl PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /out
USER 1000:1000
ENTRYPOINT ["cpsl-run"]
CMD ["--help"]
