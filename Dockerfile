# Does what `make serve` does: TorchServe and the gateway over the models in /var/lib/flowmodel.
#   docker build -t flowmodel .
#   docker run -p 8000:8000 -p 50051:50051 -v "$PWD/model_store:/var/lib/flowmodel" flowmodel

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN pip install -c constraints.txt torch
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml setup.py README.md LICENSE ./
COPY flowmodel flowmodel
COPY service service
RUN pip install -c constraints.txt '.[train,serve,torchserve]'

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 flow && install -d -o flow -g flow /var/lib/flowmodel
COPY --from=build /opt/venv /opt/venv
COPY deploy/serve /srv/deploy/serve
COPY examples/demo.csv /srv/examples/demo.csv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 FLOWMODEL_HOST=0.0.0.0 FLOWMODEL_STORE=/var/lib/flowmodel
USER flow
WORKDIR /home/flow
VOLUME /var/lib/flowmodel
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/srv/deploy/serve"]
