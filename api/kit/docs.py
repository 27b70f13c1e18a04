"""The documentation in a browser: Swagger UI with all that it loads from here, under a policy that allows nothing else."""

import json
from importlib.resources import files
from typing import Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DiffFit API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  validatorUrl: null, // else a badge would ask a server elsewhere
});
"""
SWAGGER = files("fastapi_offline") / "static"
DAY = {"cache-control": "public, max-age=86400"}


@router.get("/openapi.json")
def get_schema(request: Request) -> Response:
    """It takes a second to make, in a thread, and is kept."""
    app: FastAPI = request.app
    if not hasattr(app.state, "schema"):
        app.state.schema = json.dumps(app.openapi(), separators=(",", ":")).encode()
    return Response(app.state.schema, media_type="application/json")


@router.get("/docs")
async def show_page() -> Response:
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


@router.get("/docs/start.js")
async def get_start() -> Response:
    return Response(START, media_type="text/javascript", headers=DAY)


@router.get("/docs/{name}")
async def get_asset(name: Literal["swagger-ui.css", "swagger-ui-bundle.js", "favicon.png"]) -> Response:
    return FileResponse(str(SWAGGER / name), headers=DAY)
