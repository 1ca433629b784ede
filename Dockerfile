# JupyterLab with the notebooks, and PyTorch for processors; docs/installing.md says how to build and run it.
FROM python:3.11-slim

# Versions of Debian's packages are not pinned: the image takes those of its release, with their security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.9 \
    && useradd --create-home reader \
    && install --directory --owner=reader /lensstudy

USER reader
WORKDIR /lensstudy
COPY --chown=reader . .
RUN UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 make install
ENV PATH=/lensstudy/.venv/bin:$PATH

EXPOSE 8888
CMD ["jupyter", "lab", "notebooks", "--ip=0.0.0.0", "--no-browser", \
     "--LabApp.app_settings_dir=/lensstudy/workflow/jupyterlab", "--LabApp.default_url=/lab/tree/README.md"]
