"""The node plugin: publishes volumes at paths of this node, through the keeper and its daemons."""
