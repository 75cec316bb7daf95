# `saat serve` on CPU. See docs/how-to/deploy.md.
#
#   docker build --build-arg TORCH_INDEX=URL -t saat .
#
# TORCH_INDEX is the package index with the CPU wheels of torch. Without it torch comes from pip's own index, on Linux
# with the libraries for CUDA, which are several GB and of no use here.

FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
ARG EXTRAS="milvus,postgres"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/saat
ENV PATH=/opt/saat/bin:$PATH
# Before the source, so that a change of the source does not fetch torch again.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install ".[$EXTRAS]"

FROM python:3.12-slim
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin saat \
    && install -d -o saat -g saat /data/index \
    && install -d /data/checkpoint
COPY --from=build /opt/saat /opt/saat
# Threads that wait for work sleep: in a container they share their cores. HOME and caches are where one may write.
ENV PATH=/opt/saat/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /tmp
VOLUME ["/data/index", "/data/checkpoint"]
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["saat"]
# No default without a token: the container listens to other machines.
CMD ["serve", "--index=/data/index", "--checkpoint=/data/checkpoint", "--host=0.0.0.0", "--token_file=/run/secrets/saat_token"]
