//go:build tools

// Package lab names the commands that the lab builds.
package lab

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
)
