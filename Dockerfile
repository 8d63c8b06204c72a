# Runs tarflow's commands on a CPU or, with the NVIDIA container toolkit, on GPUs:
#   docker build -t tarflow . && docker run -v "$PWD/outputs:/data/outputs" tarflow train
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data

WORKDIR /opt/tarflow
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY conf conf
COPY tarflow tarflow
RUN pip install --constraint constraints.txt .

# A numeric user, so that clusters that forbid root accept the image.
RUN mkdir -p /data && chown 1000:1000 /data
USER 1000
WORKDIR /data
ENTRYPOINT ["tarflow"]
CMD ["--help"]
