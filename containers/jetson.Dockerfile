# Runs exported models on a Jetson with JetPack 6.1 or 6.2, and builds their TensorRT engines there. From the
# root of a checkout, on the board:
#
#   docker build -f containers/jetson.Dockerfile -t cpsl-run:jetson .
#
# The base image brings JetPack's CUDA 12.6 and TensorRT 10.3, with its Python package; no wheel replaces them.
# How to run it: docs/edge.md.

ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}
# JetPack's OpenCV (4.8, with V4L2 and GStreamer) from its own repository: Ubuntu's is older than 4.8.
ARG L4T=r36.4
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /usr/share/keyrings/jetson.asc
RUN chmod 644 /usr/share/keyrings/jetson.asc \
    && rm -f /etc/apt/sources.list.d/nvidia-l4t-apt-source.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3-venv \
    && echo "deb [signed-by=/usr/share/keyrings/jetson.asc] https://repo.download.nvidia.com/jetson/common $L4T main" \
       > /etc/apt/sources.list.d/nvidia-l4t-apt-source.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends libopencv-python \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY requirements/jetson.txt requirements/
COPY cpsl_deploy cpsl_deploy
COPY train train
COPY export export
# The versions of constraints.txt but for NumPy: OpenCV is built for NumPy 1 here. MORE: what --preview needs.
ARG MORE="aiohttp prometheus-client"
RUN python3 -m venv --system-site-packages /opt/cpsl \
    && grep -v '^numpy==' constraints.txt > jetson-constraints.txt \
    && /opt/cpsl/bin/pip install --no-cache-dir -c jetson-constraints.txt -r requirements/jetson.txt $MORE \
    && /opt/cpsl/bin/pip install --no-cache-dir --no-deps .
ENV PATH=/opt/cpsl/bin:$PATH HOME=/tmp CPSL_CACHE=/tmp/cpsl PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /out
USER 1000:1000
ENTRYPOINT ["cpsl-run"]
CMD ["--help"]
