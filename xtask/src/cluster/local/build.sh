#!/bin/sh
# Makes the programs of the local cluster, one STAGE after the other, in the current folder: `build.sh STAGE VERSION`.
# Everything comes from the Go module proxy, named and summed by the go.mod and go.sum in `kubernetes` and `parts`. Needs no
# root. An interrupted stage may be repeated; `compile` goes on where it was.
set -eu
stage=$1 version=$2
here=$PWD
export GOENV=off GOWORK=off GOTOOLCHAIN=local GOFLAGS="-mod=readonly -modcacherw"
# Everything that is needed is on Go's own proxy; who is asked when that lacks something would want git.
export GOPROXY="${GOPROXY:-$(go env GOPROXY | sed 's/,direct$//')}"
# Both go with the workshop, unless a person wants them elsewhere.
export GOMODCACHE="${GOMODCACHE:-$here/gomod}" GOCACHE="${GOCACHE:-$here/gocache}"

containerd=github.com/containerd/containerd/v2
etcd=go.etcd.io/etcd/server/v3
plugins=github.com/containernetworking/plugins
runc=github.com/opencontainers/runc
commands=$(for name in -apiserver -controller-manager -scheduler let -proxy ctl; do echo "k8s.io/kubernetes/cmd/kube$name"; done)
parts="Kubernetes containerd etcd network-plugins runc"

# Says in which folder a part's modules are, what it consists of, how it is compiled, and where it goes.
describe() {
    folder=parts cgo=0 tags='' flags='-s -w' into=$here/compiled/
    case $1 in
    Kubernetes)
        folder=kubernetes packages=$commands
        # The version that the programs tell, in the variables that Kubernetes' own build sets (hack/lib/version.sh).
        rest=${version#*.}
        for value in gitVersion="v$version" gitMajor="${version%%.*}" gitMinor="${rest%%.*}" gitTreeState=archive; do
            flags="$flags -X k8s.io/component-base/version.$value"
        done
        ;;
    containerd)
        packages=$(for name in containerd containerd-shim-runc-v2 ctr; do echo "$containerd/cmd/$name"; done)
        flags="$flags -X $containerd/version.Version=$(version_of $containerd)"
        ;;
    etcd) packages=$etcd into=$here/compiled/etcd ;;
    network-plugins)
        packages=$(for name in main/bridge main/loopback ipam/host-local meta/portmap; do echo "$plugins/plugins/$name"; done)
        into=$here/compiled/cni/
        ;;
    runc)
        # Its first steps are C, and the profile of system calls is libseccomp's.
        packages=$runc cgo=1 tags='seccomp netgo osusergo urfave_cli_no_docs' into=$here/compiled/runc
        flags="$flags -linkmode external -extldflags -static"
        ;;
    esac
}

# The version of a module among the parts, without its v.
version_of() {
    (cd "$here/parts" && go list -m -f '{{.Version}}' "$1") | cut -c 2-
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
    # libseccomp is where every compiler looks.
    printf '#!/bin/sh\ncase "$*" in *--libs*) echo -lseccomp ;; esac\n' >pkg-config
    chmod +x pkg-config
    export PKG_CONFIG="$here/pkg-config"
    # Each package once for each version of it.
    format='{{.ImportPath}}@{{with .Module}}{{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}{{end}}'
    for part in $parts; do
        describe "$part"
        (cd "$folder" && CGO_ENABLED=$cgo go list -deps -tags "$tags" -f "$format" $packages) >"packages-$part"
    done
    # These lines, and the names that the compiler prints, are read by whoever shows the progress.
    echo "packages: $(sort -u packages-* | wc -l)"
    before=
    for part in $parts; do
        echo "part: $(cat /dev/null $before | sort -u | wc -l) $part"
        before="$before packages-$part"
        describe "$part"
        (cd "$folder" && CGO_ENABLED=$cgo go build -v -trimpath -tags "$tags" -ldflags "$flags" -o "$into" $packages)
    done
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
    {
        echo "etcd $(version_of $etcd)"
        echo "containerd $(version_of $containerd)"
        echo "runc $(version_of $runc)"
        echo "network-plugins $(version_of $plugins)"
    } >done/versions
    ;;
*)
    echo "no such stage: $stage" >&2
    exit 2
    ;;
esac
