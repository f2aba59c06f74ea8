// Package e2e holds Godwit's end-to-end tests. They run on a lab of their own,
// beside one that a person may have up; `make test-e2e` builds what they need.
package e2e
