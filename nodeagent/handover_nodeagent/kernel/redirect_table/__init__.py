"""What goes with a redirect in nftables: table ``handover`` of family inet."""
