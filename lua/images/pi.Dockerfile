# The image of provider pi: Pi and what it calls for.
#
# bb builds it when backend docker is to run the provider and no image is named, once for each content of this file. To change it,
# copy it to $BB_HOME/images/pi.Dockerfile, which is taken in its place. Nothing of bb is in an image, and no credential: at run
# time the root is read-only, the user is an ordinary one, and entry point and user of the image do not count.
#
# The secrets are this machine's own settings of package registries (docs/backends.md). A step sees one that asks for it; no
# layer has it, and where the machine has none nothing is mounted.

ARG BASE=node:22-bookworm-slim
FROM ${BASE}

# git and ripgrep are what agents call most; certificates are what git and curl trust.
RUN --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/99host \
    apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git ripgrep \
    && rm -rf /var/lib/apt/lists/*

# The release that bb was tested with.
# It runs on Node.
ARG VERSION=0.73.1
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc \
    npm install --global --no-audit --no-fund "@mariozechner/pi-coding-agent@${VERSION}" \
    && npm cache clean --force
