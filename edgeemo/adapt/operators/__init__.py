"""Operators in terms of those that the compiler does well, once every shape but the batch is known.

A lowering takes a node, what is known of the graph, and a Maker; it adds nodes that give the node's outputs under their names and
returns True, or leaves the node as it is and returns False. Adding an operator is adding a function to one of the tables here.
"""
