"""Tests, in the source's folders; `e2e` has whole commands, `project` what is packaged, `kits` what tests share."""
