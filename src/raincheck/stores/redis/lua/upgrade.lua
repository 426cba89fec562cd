-- Bring tasks of the layout before to this one.
return foreign() or 1
