//go:build tools

// Package lab names the commands that the lab builds.
package lab

import (
	_ "github.com/coredns/coredns"
)
