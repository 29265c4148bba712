"""The node plugin: volumes as paths of this node, through the keeper and its daemons."""
