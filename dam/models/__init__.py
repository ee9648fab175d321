"""Networks: any timm name, our two benchmark networks registered with timm, and head replacement."""
