"""What is done with the two factors of a LoRA: trained, sent, combined."""
