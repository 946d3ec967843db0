"""The API server: read, watched and written; leadership among replicas, and the queue of work."""
