"""The conventions of the tools that users come from: A1111, Forge, ComfyUI, InvokeAI."""
