"""All that runs on Ray: the launcher, the actors that label, the checks of every node.

Nothing else imports ray, and what is done on a worker is written elsewhere, so that it also runs without Ray.
"""
