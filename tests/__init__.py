"""Tests, in the folders of the source; `e2e` has whole commands, `project` what is packaged, `kits` what tests share."""
