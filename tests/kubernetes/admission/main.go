// Applies a MutatingAdmissionPolicy to a pod by the code of the API server itself:
//
//	admission POLICY.yaml POD.yaml > pod.json
//
// It compiles the match conditions and the JSONPatch expressions in the API server's CEL
// environment, type checks included, and applies the patches in their order. Not run here: the
// matching of rules and selectors, which needs a server; the caller sends what matches.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	policyv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("usage: admission POLICY.yaml POD.yaml")
	}
	var policy policyv1.MutatingAdmissionPolicy
	var pod corev1.Pod
	if err := errors.Join(read(os.Args[1], &policy), read(os.Args[2], &pod)); err != nil {
		return err
	}
	mutated, err := apply(&policy, &pod)
	if err != nil {
		return err
	}
	output, err := json.Marshal(mutated)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(output)
	return err
}

func read(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, into)
}

func apply(policy *policyv1.MutatingAdmissionPolicy, pod runtime.Object) (runtime.Object, error) {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, err
	}
	options := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	variables := make([]cel.NamedExpressionAccessor, len(policy.Spec.Variables))
	for i, named := range policy.Spec.Variables {
		variables[i] = &validating.Variable{Name: named.Name, Expression: named.Expression}
	}
	compiler.CompileAndStoreVariables(variables, options, environment.NewExpressions)
	conditions := make([]cel.ExpressionAccessor, len(policy.Spec.MatchConditions))
	for i := range conditions {
		conditions[i] = (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i])
	}
	compiled := compiler.CompileCondition(conditions, options, environment.NewExpressions)
	matcher := matchconditions.NewMatcher(compiled, policy.Spec.FailurePolicy, "policy", "mutate", policy.Name)
	options.HasPatchTypes = true

	ctx := compiler.CreateContext(context.Background())
	matched := matcher.Match(ctx, attributes(pod), nil, nil)
	if matched.Error != nil {
		return nil, matched.Error
	}
	if !matched.Matches {
		return pod, nil
	}
	for i, mutation := range policy.Spec.Mutations {
		if mutation.PatchType != policyv1.PatchTypeJSONPatch {
			return nil, fmt.Errorf("mutation %d: only JSONPatch is run here, not %s", i, mutation.PatchType)
		}
		condition := &patch.JSONPatchCondition{Expression: mutation.JSONPatch.Expression}
		evaluator := compiler.CompileMutatingEvaluator(condition, options, environment.NewExpressions)
		request := patch.Request{
			MatchedResource:     pods,
			VersionedAttributes: attributes(pod),
			ObjectInterfaces:    admission.NewObjectInterfacesFromScheme(scheme),
			Namespace:           &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		}
		pod, err = patch.NewJSONPatcher(evaluator).Patch(ctx, request, celconfig.RuntimeCELCostBudget)
		if err != nil {
			return nil, fmt.Errorf("mutation %d: %w", i, err)
		}
	}
	return pod, nil
}

const namespace = "shop"

var pods = corev1.SchemeGroupVersion.WithResource("pods")

var scheme = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	return scheme
}()

// attributes says that a user creates this pod.
func attributes(pod runtime.Object) *admission.VersionedAttributes {
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	created := admission.NewAttributesRecord(pod, nil, kind, namespace, "", pods, "",
		admission.Create, &metav1.CreateOptions{}, false, &user.DefaultInfo{Name: "someone"})
	return &admission.VersionedAttributes{Attributes: created, VersionedObject: pod, VersionedKind: kind}
}
