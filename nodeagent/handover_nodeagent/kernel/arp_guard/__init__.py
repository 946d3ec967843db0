"""The ARP guard: nftables table ``handover`` of family arp."""
