"""Would the BGP speaker on this node follow? It is asked about a probe route of ours."""
