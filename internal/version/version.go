// Package version holds the version of a build.
package version

// Version is set by the linker when a program is built.
var Version = "development" //nolint:gochecknoglobals // the linker can only set a package variable
