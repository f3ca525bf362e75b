# All images of Shunter, one target each: docker build --target picker -t shunter-picker:0.1.0 .   (without --target: all of it)
#
# What is installed is what requirements/image.txt pins by hash. Each image has a Python, the packages of one component in
# /opt/shunter, and nothing that could install more. It runs as nobody in particular, on a root that may be read-only.
# Built twice from one commit, on one base, the layers are the same (docs/container-images.md).

# Any image with Python 3.11 or later in which `python3 -m venv` works, and which has openssl for pickers that certify
# themselves. Name it with its digest to have the same one again.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS wheels
# pip's own settings, for packages from elsewhere: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=315532800
RUN python3 -m venv /build
WORKDIR /source
# The pattern matches nothing unless `make image` has put wheels there for a build without a network.
COPY requirements/image.txt build/wheel[s]/* build/wheels/
RUN /build/bin/pip download --quiet --require-hashes --only-binary=:all: --dest /wheels -r build/wheels/image.txt \
 && /build/bin/pip install --quiet --no-index --find-links /wheels hatchling editables
COPY LICENSE .
COPY packages packages
RUN /build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels packages/*
COPY --chmod=755 deploy/install /build/bin/

FROM ${BASE} AS runtime
ENV PATH=/opt/shunter/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 HOME=/tmp
# "nonroot" of common base images; a number, so that Kubernetes can see that it is not root.
USER 65532:65532

FROM wheels AS install-picker
RUN /build/bin/install 'shunter-picker[sharing,tracing]'
FROM runtime AS picker
COPY --from=install-picker /image /
ENTRYPOINT ["shunter-picker"]

FROM wheels AS install-scraper
RUN /build/bin/install 'shunter-scraper[kubernetes]'
FROM runtime AS scraper
COPY --from=install-scraper /image /
ENTRYPOINT ["shunter-scraper"]

FROM wheels AS install-envoyconf
RUN /build/bin/install shunter-envoyconf
FROM runtime AS envoyconf
COPY --from=install-envoyconf /image /
ENTRYPOINT ["shunter-envoyconf"]

FROM wheels AS install-conformance
RUN /build/bin/install 'shunter-conformance[picker,kv-events]'
FROM runtime AS conformance
COPY --from=install-conformance /image /
ENTRYPOINT ["shunter-conformance"]

FROM wheels AS install-rollout
RUN /build/bin/install 'shunter-rollout[kubernetes]'
FROM runtime AS rollout
COPY --from=install-rollout /image /
ENTRYPOINT ["shunter-rollout"]

FROM wheels AS install-lab
RUN /build/bin/install shunter-lab
FROM runtime AS lab
COPY --from=install-lab /image /
ENTRYPOINT ["shunter-lab"]

FROM wheels AS install-all
RUN /build/bin/install shunter-stack 'shunter-picker[sharing,tracing]' 'shunter-scraper[kubernetes]' 'shunter-rollout[kubernetes]' \
    'shunter-conformance[picker,kv-events]'
FROM runtime AS all
COPY --from=install-all /image /
ENTRYPOINT ["shunter"]
