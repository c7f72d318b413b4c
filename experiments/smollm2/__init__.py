"""A small pretrained model and word problems that it half solves, for `post_train_hf` on a machine without the Hub."""
