// Package house holds the tests of the project's own rules: who imports whom.
package house
