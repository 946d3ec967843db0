"""The ARP guard: nftables table ``handover`` of family arp, written by a process that may die."""
