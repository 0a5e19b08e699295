"""Everything that knows Ray: the driver actor, the workers, Ray Data, launching and sweeping."""
