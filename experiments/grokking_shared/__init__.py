"""What the two grokking experiments share: the design, its claims, trends of pathways."""
