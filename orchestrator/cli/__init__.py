"""Arguments in, one use case called, result out."""
