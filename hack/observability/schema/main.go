// Reads dashboards with Grafana's own types, strictly: what it does not know, or misses, is an error.
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	status := 0
	for _, path := range os.Args[1:] {
		if err := read(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s:\n%s\n", path, err)
			status = 1
		}
	}
	os.Exit(status)
}

func read(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var found dashboard.Dashboard
	err = found.UnmarshalJSONStrict(text)
	if err != nil && err.Error() == "" { // an empty list of errors, which a Go interface does not take for nil
		return nil
	}
	return err
}
