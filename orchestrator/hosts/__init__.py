"""Reaching nodes: by SSH, through their container's runtime, or on this machine; one port, `engine.host`."""
