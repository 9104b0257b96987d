"""What a trained counter says of images: predictions, pseudo-labels, translated images, and the evaluation.

Only `evaluation` opens the target's labels; nothing here trains.
"""
