"""Our tables in nftables: how they are written and watched, by a process that may die."""
