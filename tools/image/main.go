// Image packs programs into a container image: an OCI layout for all platforms,
// and for each an archive that container engines load. It needs neither an
// engine nor a registry, and makes the same image of the same programs.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-net/godwit/tools/image/pack"
)

func main() {
	if err := command().ExecuteContext(context.Background()); err != nil {
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var (
		o       pack.Options
		out     string
		created int64
		trees   []string
		labels  []string
	)
	c := &cobra.Command{
		Use:           "image --name NAME:TAG --version VERSION --tree PLATFORM=FOLDER...",
		Short:         "Pack folders into a container image",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: false,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Created = time.Unix(created, 0).UTC()
			for _, t := range trees {
				platform, dir, ok := strings.Cut(t, "=")
				if !ok {
					return fmt.Errorf("--tree %s: want PLATFORM=FOLDER", t)
				}
				o.Trees = append(o.Trees, pack.Tree{Platform: platform, Dir: dir})
			}
			o.Labels = map[string]string{}
			for _, l := range labels {
				key, value, ok := strings.Cut(l, "=")
				if !ok {
					return fmt.Errorf("--label %s: want KEY=VALUE", l)
				}
				o.Labels[key] = value
			}
			return run(c, out, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Name, "name", "", "name of the image with its tag")
	f.StringVar(&o.Version, "version", "", "version of what is inside")
	f.StringVar(&out, "out", "dist", "folder to write to")
	f.StringArrayVar(&trees, "tree", nil, "PLATFORM=FOLDER: the content for a platform, such as linux/amd64=bin/image/linux-amd64; may be repeated")
	f.Int64Var(&created, "created", 0, "when it was made, in seconds since 1970; every file bears that time")
	f.StringArrayVar(&labels, "label", nil, "KEY=VALUE; may be repeated")
	f.StringArrayVar(&o.Entrypoint, "entrypoint", nil, "program that runs by default, and its arguments; may be repeated")
	f.StringArrayVar(&o.Env, "env", nil, "KEY=VALUE for the program's environment; may be repeated")
	for _, required := range []string{"name", "version", "tree"} {
		_ = c.MarkFlagRequired(required)
	}
	return c
}

func run(c *cobra.Command, out string, o pack.Options) error {
	r, err := pack.Write(out, o)
	if err != nil {
		return err
	}
	w := c.OutOrStdout()
	for _, t := range o.Trees {
		info, err := os.Stat(r.Archives[t.Platform])
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(w, "%s %s %s (%.1f MB)\n", t.Platform, r.Images[t.Platform], r.Archives[t.Platform], float64(info.Size())/1e6)
	}
	_, _ = fmt.Fprintf(w, "index %s %s\n", r.Index, r.Layout)
	return nil
}
