"""The tiny LLaVA that the library ships: its architecture and tokenizer, the lessons, and the pre-training."""
