//go:build tools

// Package lab names the commands that the lab builds.
package lab

import (
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
