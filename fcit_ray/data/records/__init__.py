"""Records as they stand in files: read, checked field by field, with their pictures; what is set aside."""
