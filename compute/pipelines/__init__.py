"""One readable file for each pipeline; a worker finds them through the entry points ``pasar.pipelines``."""
