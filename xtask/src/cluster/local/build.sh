#!/bin/sh
# Makes the programs of the local cluster, one STAGE after the other, in the current folder: `build.sh STAGE VERSION`.
# Everything comes from the Go module proxy, named and summed by the go.mod and go.sum in `kubernetes` and `parts`. Needs no
# root. An interrupted stage may be repeated; `compile` goes on where it was.
set -eu
stage=$1 version=$2
here=$PWD
export GOENV=off GOWORK=off GOTOOLCHAIN=local GOFLAGS="-mod=readonly -modcacherw"
# Everything that is needed is on the proxy; who is asked when it lacks something would want git.
export GOPROXY="${GOPROXY:-https://proxy.golang.org}"
# Both go with the workshop, unless a person wants them elsewhere.
export GOMODCACHE="${GOMODCACHE:-$here/gomod}" GOCACHE="${GOCACHE:-$here/gocache}"

programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"
commands=$(for program in $programs; do echo "k8s.io/kubernetes/cmd/$program"; done)
containerd=github.com/containerd/containerd/v2
etcd=go.etcd.io/etcd/server/v3
plugins=github.com/containernetworking/plugins/plugins
runc=github.com/opencontainers/runc
runc_tags="seccomp netgo osusergo urfave_cli_no_docs"

# Each package that the commands consist of, once for each version of it.
packages() {
    go list -deps -f '{{.ImportPath}}@{{with .Module}}{{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}{{end}}' "$@"
}

# The version of a module of `parts`, without its v.
part() {
    go list -m -f '{{.Version}}' "$1" | cut -c 2-
}

case $stage in
served)
    go list -m -versions k8s.io/kubernetes
    ;;
modules)
    # Kubernetes' own go.mod takes its parts from folders beside it, which the proxy has not; it has each as a module of the
    # same minor and patch.
    mkdir -p kubernetes
    its_own=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",*$/\1/p')
    cd kubernetes
    {
        echo "module cluster"
        grep -E '^(go|godebug) ' "$its_own"
        echo "require k8s.io/kubernetes v$version"
        sed -n "s#^\t\(k8s.io/[a-z-]*\) => \./staging/.*#replace \1 => \1 v0.${version#*.}#p" "$its_own"
    } >go.mod
    # What is imported here is what `tidy` keeps the requirements of.
    {
        printf '//go:build tools\n\npackage tools\n\n'
        for command in $commands; do echo "import _ \"$command\""; done
    } >tools.go
    GOFLAGS=-modcacherw go mod tidy
    ;;
fetch)
    (cd kubernetes && go mod download)
    (cd parts && go mod download)
    ;;
compile)
    mkdir -p compiled/cni
    {
        (cd kubernetes && CGO_ENABLED=0 packages $commands)
        (cd parts && CGO_ENABLED=0 packages $containerd/cmd/containerd $containerd/cmd/containerd-shim-runc-v2 \
            $containerd/cmd/ctr $etcd $plugins/main/bridge $plugins/main/loopback $plugins/ipam/host-local $plugins/meta/portmap)
        (cd parts && CGO_ENABLED=1 packages -tags "$runc_tags" $runc)
    } >packages
    # Read by whoever shows the progress, as are the lines that name a part.
    echo "packages: $(sort -u packages | wc -l)"

    echo "part: Kubernetes"
    cd "$here/kubernetes"
    # The version that the programs tell, in the variables that Kubernetes' own build sets (hack/lib/version.sh).
    rest=${version#*.}
    at=k8s.io/component-base/version
    CGO_ENABLED=0 go build -v -trimpath -o "$here/compiled/" -ldflags "-s -w -X $at.gitVersion=v$version \
        -X $at.gitMajor=${version%%.*} -X $at.gitMinor=${rest%%.*} -X $at.gitTreeState=archive" $commands

    cd "$here/parts"
    echo "part: containerd"
    CGO_ENABLED=0 go build -v -trimpath -ldflags "-s -w -X $containerd/version.Version=$(part $containerd)" \
        -o "$here/compiled/" $containerd/cmd/containerd $containerd/cmd/containerd-shim-runc-v2 $containerd/cmd/ctr
    echo "part: etcd"
    CGO_ENABLED=0 go build -v -trimpath -ldflags "-s -w" -o "$here/compiled/etcd" $etcd
    echo "part: network plugins"
    CGO_ENABLED=0 go build -v -trimpath -ldflags "-s -w" -o "$here/compiled/cni/" \
        $plugins/main/bridge $plugins/main/loopback $plugins/ipam/host-local $plugins/meta/portmap
    echo "part: runc"
    # Its first steps are C, and the profile of system calls is libseccomp's, which is where every compiler looks.
    printf '#!/bin/sh\ncase "$*" in *--libs*) echo -lseccomp ;; esac\n' >"$here/pkg-config"
    chmod +x "$here/pkg-config"
    PKG_CONFIG="$here/pkg-config" CGO_ENABLED=1 go build -v -trimpath -tags "$runc_tags" \
        -ldflags "-s -w -linkmode external -extldflags -static" -o "$here/compiled/runc" $runc
    ;;
assemble)
    rm -rf done
    mkdir -p done/bin done/modules
    cp -rl compiled/cni done/cni
    find compiled -maxdepth 1 -type f -exec cp -l {} done/bin/ \;
    # With these another build of the same version would need nothing but the proxy.
    cp kubernetes/go.mod kubernetes/go.sum done/modules/
    # The process that holds a pod's namespaces, and a node's: Kubernetes' own.
    source=$(cd kubernetes && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
    gcc -static -Os -s -DVERSION="$version" -o done/bin/pause "$source/build/pause/linux/pause.c"
    cd parts
    {
        echo "etcd $(part $etcd)"
        echo "containerd $(part $containerd)"
        echo "runc $(part $runc)"
        echo "network-plugins $(part ${plugins%/plugins})"
    } >../done/versions
    ;;
*)
    echo "no such stage: $stage" >&2
    exit 2
    ;;
esac
