"""An update by phase, several agents or devices, and the whole loop."""
