// Container Apps: the web server of Dagster and the labeling page, each behind the login of Entra ID, and the loop:
// daemon, code location and runs in one container, for the daemon watches the processes of the runs.
param environmentName string
param location string
param image string
param registryServer string
param vaultUri string
param logsName string
param platformIdentityId string
param platformClientId string
param scoringClientId string
param kustoUri string
param kustoDatabase string
param retentionDays int
param blobAccountUrl string
param containerName string
param eventsQueueUrl string
param workspaceName string
param datastoreName string
param endpointName string
param databaseHost string
param loginClientId string
param launcherClientId string
param labelingTrustedProxies array

@description('Delegated subnet; empty: an environment of its own')
param subnetId string

var hasLogin = !empty(loginClientId) // without one no page is reachable
var dagsterName = '${environmentName}-dagster'
var labelingName = '${environmentName}-labeling'
var loopName = '${environmentName}-loop'

resource logs 'Microsoft.OperationalInsights/workspaces@2021-06-01' existing = {
  name: logsName
}

resource host 'Microsoft.App/managedEnvironments@2025-01-01' = {
  name: 'cae-${environmentName}'
  location: location
  properties: {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: logs.properties.customerId
        sharedKey: logs.listKeys().primarySharedKey
      }
    }
    vnetConfiguration: empty(subnetId) ? null : {
      infrastructureSubnetId: subnetId
      internal: false // people come from outside, through the login; the data is private
    }
    workloadProfiles: [
      {
        name: 'Consumption'
        workloadProfileType: 'Consumption'
      }
    ]
  }
}

var secrets = [
  {
    name: 'database-password'
    keyVaultUrl: '${vaultUri}secrets/dagster-database-password'
    identity: platformIdentityId
  }
  {
    name: 'login-client-secret'
    keyVaultUrl: '${vaultUri}secrets/login-client-secret'
    identity: platformIdentityId
  }
  {
    name: 'labeling-page-secret'
    keyVaultUrl: '${vaultUri}secrets/labeling-page-secret'
    identity: platformIdentityId
  }
]
var registries = [
  {
    server: registryServer
    identity: platformIdentityId
  }
]

// What the scoring containers know; they run under the scoring identity.
var scoringVariables = {
  AL_PROFILE: 'azure'
  AL_AZURE__CLIENT_ID: scoringClientId
  AL_AZURE__KUSTO_URI: kustoUri
  AL_AZURE__KUSTO_DATABASE: kustoDatabase
  AL_AZURE__BLOB_ACCOUNT_URL: blobAccountUrl
  AL_AZURE__CONTAINER: containerName
}
var variables = [
  { name: 'AL_PROFILE', value: 'azure' }
  { name: 'AL_AZURE__CREDENTIAL', value: 'managed_identity' }
  { name: 'AL_AZURE__CLIENT_ID', value: platformClientId }
  { name: 'AL_AZURE__KUSTO_URI', value: kustoUri }
  { name: 'AL_AZURE__KUSTO_DATABASE', value: kustoDatabase }
  { name: 'AL_AZURE__KUSTO_RETENTION_DAYS', value: string(retentionDays) }
  { name: 'AL_AZURE__BLOB_ACCOUNT_URL', value: blobAccountUrl }
  { name: 'AL_AZURE__CONTAINER', value: containerName }
  { name: 'AL_AZURE__EVENTS_QUEUE_URL', value: eventsQueueUrl }
  { name: 'AL_AZURE_ML__SUBSCRIPTION', value: subscription().subscriptionId }
  { name: 'AL_AZURE_ML__RESOURCE_GROUP', value: resourceGroup().name }
  { name: 'AL_AZURE_ML__WORKSPACE', value: workspaceName }
  { name: 'AL_AZURE_ML__DATASTORE', value: datastoreName }
  { name: 'AL_AZURE_ML__ENVIRONMENT_VARIABLES', value: string(scoringVariables) }
  { name: 'AL_DEPLOYMENT__ENDPOINT', value: endpointName }
  { name: 'DATABASE_HOST', value: databaseHost }
  { name: 'DATABASE_PASSWORD', secretRef: 'database-password' }
  { name: 'CODE_LOCATION_HOST', value: loopName }
]
var labelingVariables = [
  { name: 'AL_LABELING_PAGE__HOST', value: '0.0.0.0' }
  { name: 'AL_LABELING_PAGE__PORT', value: '8809' }
  { name: 'AL_LABELING_PAGE__LOGIN', value: 'entra' }
  { name: 'AL_LABELING_PAGE__SECRET', secretRef: 'labeling-page-secret' }
  { name: 'AL_LABELING_PAGE__PUBLIC_URL', value: 'https://${labelingName}.${host.properties.defaultDomain}' }
  { name: 'AL_LABELING_PAGE__TRUSTED_PROXIES', value: string(labelingTrustedProxies) }
]

resource loop 'Microsoft.App/containerApps@2025-01-01' = {
  name: loopName
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${platformIdentityId}': {}
    }
  }
  properties: {
    environmentId: host.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      secrets: secrets
      registries: registries
      ingress: {
        external: false
        transport: 'tcp'
        targetPort: 4000
        exposedPort: 4000
      }
    }
    template: {
      terminationGracePeriodSeconds: 120 // the spool is handed over
      containers: [
        {
          name: 'loop'
          image: image
          args: ['loop']
          env: variables
          resources: {
            cpu: json('2.0')
            memory: '4Gi'
          }
        }
      ]
      scale: {
        minReplicas: 1 // exactly one daemon
        maxReplicas: 1
      }
    }
  }
}

resource dagster 'Microsoft.App/containerApps@2025-01-01' = {
  name: dagsterName
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${platformIdentityId}': {}
    }
  }
  properties: {
    environmentId: host.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      secrets: secrets
      registries: registries
      ingress: {
        external: hasLogin
        transport: 'http'
        targetPort: 3000
        allowInsecure: false
      }
    }
    template: {
      containers: [
        {
          name: 'dagster'
          image: image
          args: ['web']
          env: variables
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
        }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: 1
      }
    }
  }
}

resource labeling 'Microsoft.App/containerApps@2025-01-01' = {
  name: labelingName
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${platformIdentityId}': {}
    }
  }
  properties: {
    environmentId: host.id
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      secrets: secrets
      registries: registries
      ingress: {
        external: hasLogin
        transport: 'http'
        targetPort: 8809
        allowInsecure: false
      }
    }
    template: {
      containers: [
        {
          name: 'labeling'
          image: image
          args: ['labeling']
          env: concat(variables, labelingVariables)
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
        }
      ]
      scale: {
        minReplicas: 1
        maxReplicas: 3 // they share the round through the stores
      }
    }
  }
}

resource dagsterLogin 'Microsoft.App/containerApps/authConfigs@2025-01-01' = if (hasLogin) {
  parent: dagster
  name: 'current'
  properties: {
    platform: {
      enabled: true
    }
    globalValidation: {
      unauthenticatedClientAction: 'RedirectToLoginPage'
      redirectToProvider: 'azureactivedirectory'
    }
    identityProviders: {
      azureActiveDirectory: {
        enabled: true
        registration: {
          clientId: loginClientId
          clientSecretSettingName: 'login-client-secret'
          openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
        }
        validation: {
          allowedAudiences: [loginClientId, 'api://${loginClientId}']
          defaultAuthorizationPolicy: {
            // people come by the registration itself, `al launch` under an identity of its own
            allowedApplications: empty(launcherClientId) ? [loginClientId] : [loginClientId, launcherClientId]
          }
        }
      }
    }
  }
}

resource labelingLogin 'Microsoft.App/containerApps/authConfigs@2025-01-01' = if (hasLogin) {
  parent: labeling
  name: 'current'
  properties: {
    platform: {
      enabled: true
    }
    globalValidation: {
      unauthenticatedClientAction: 'RedirectToLoginPage'
      redirectToProvider: 'azureactivedirectory'
    }
    identityProviders: {
      azureActiveDirectory: {
        enabled: true
        registration: {
          clientId: loginClientId
          clientSecretSettingName: 'login-client-secret'
          openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
        }
      }
    }
  }
}

output dagsterUrl string = hasLogin ? 'https://${dagsterName}.${host.properties.defaultDomain}' : ''
output labelingUrl string = hasLogin ? 'https://${labelingName}.${host.properties.defaultDomain}' : ''
