"""`python -m api [uvicorn's options]`: serve the API, on connections that nobody can hold for ever."""

import sys

import uvicorn

if __name__ == "__main__":
    uvicorn.main(["api.app:create_app", "--factory", "--http", "api.kit.connections:Connection", "--ws", "none", *sys.argv[1:]])
